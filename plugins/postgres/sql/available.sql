-- One JSON object: extensions that can be created here, and tablespaces.
SET search_path = pg_catalog;
SELECT json_build_object(
  'extensions', (SELECT COALESCE(json_agg(name ORDER BY name), '[]') FROM pg_available_extensions));
