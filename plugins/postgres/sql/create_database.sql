-- Creates the database `name` with the properties in `row`. Both are data; every statement is built here.
SET search_path = pg_catalog;
SET client_min_messages = warning;
SELECT format('CREATE DATABASE %I WITH TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L%s%s%s CONNECTION LIMIT %s',
  :'name', r ->> 'encoding', r ->> 'collate', r ->> 'ctype',
  CASE WHEN v < 150000 THEN ''
    WHEN r ->> 'provider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L%s', r ->> 'locale',
      CASE WHEN v >= 160000 AND r ->> 'icu_rules' IS NOT NULL THEN format(' ICU_RULES %L', r ->> 'icu_rules') ELSE '' END)
    WHEN r ->> 'provider' = 'b' AND v >= 170000 THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', r ->> 'locale')
    ELSE ' LOCALE_PROVIDER libc' END,
  CASE WHEN r ->> 'owner' IS NOT NULL THEN format(' OWNER %I', r ->> 'owner') ELSE '' END,
  CASE WHEN r ->> 'tablespace' IS NOT NULL THEN format(' TABLESPACE %I', r ->> 'tablespace') ELSE '' END,
  COALESCE((r ->> 'connection_limit')::int, -1))
FROM (SELECT (:'row')::jsonb AS r, current_setting('server_version_num')::int AS v) AS given \gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'name', r ->> 'comment')
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE r ->> 'comment' IS NOT NULL \gexec
