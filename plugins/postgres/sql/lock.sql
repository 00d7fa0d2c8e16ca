-- Held while a verification works here, so that the next one knows whose scratch databases are left over.
SET search_path = pg_catalog;
SELECT json_build_object('held', pg_try_advisory_lock(7814996245307));
