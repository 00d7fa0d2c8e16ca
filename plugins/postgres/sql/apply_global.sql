-- Brings one row of the recorded globals back. The row is data: every statement is built here,
-- from names quoted by the server, and `action` only chooses among them.
SET search_path = pg_catalog;
SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET timezone = 'UTC';
SELECT format('CREATE ROLE %I WITH %s %s %s %s %s %s %s CONNECTION LIMIT %s%s', r ->> 'name',
  CASE WHEN (r ->> 'super')::boolean THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
  CASE WHEN (r ->> 'inherit')::boolean THEN 'INHERIT' ELSE 'NOINHERIT' END,
  CASE WHEN (r ->> 'create_role')::boolean THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
  CASE WHEN (r ->> 'create_db')::boolean THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
  CASE WHEN (r ->> 'login')::boolean THEN 'LOGIN' ELSE 'NOLOGIN' END,
  CASE WHEN (r ->> 'replication')::boolean THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
  CASE WHEN (r ->> 'bypass_rls')::boolean THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
  (r ->> 'connection_limit')::int,
  CASE WHEN r ->> 'valid_until' IS NOT NULL THEN format(' VALID UNTIL %L', r ->> 'valid_until') ELSE '' END)
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'create-role' \gexec
SELECT format('ALTER ROLE %I WITH %s', r ->> 'name', concat_ws(' ',
  CASE (r ->> 'super')::boolean WHEN true THEN 'SUPERUSER' WHEN false THEN 'NOSUPERUSER' END,
  CASE (r ->> 'inherit')::boolean WHEN true THEN 'INHERIT' WHEN false THEN 'NOINHERIT' END,
  CASE (r ->> 'create_role')::boolean WHEN true THEN 'CREATEROLE' WHEN false THEN 'NOCREATEROLE' END,
  CASE (r ->> 'create_db')::boolean WHEN true THEN 'CREATEDB' WHEN false THEN 'NOCREATEDB' END,
  CASE (r ->> 'login')::boolean WHEN true THEN 'LOGIN' WHEN false THEN 'NOLOGIN' END,
  CASE (r ->> 'replication')::boolean WHEN true THEN 'REPLICATION' WHEN false THEN 'NOREPLICATION' END,
  CASE (r ->> 'bypass_rls')::boolean WHEN true THEN 'BYPASSRLS' WHEN false THEN 'NOBYPASSRLS' END,
  'CONNECTION LIMIT ' || (r ->> 'connection_limit')::int,
  CASE WHEN r ? 'valid_until' THEN format('VALID UNTIL %L', COALESCE(r ->> 'valid_until', 'infinity')) END))
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'alter-role' \gexec
SELECT format('COMMENT ON ROLE %I IS %L', r ->> 'name', r ->> 'comment')
FROM (SELECT (:'row')::jsonb AS r) AS given
WHERE :'action' IN ('create-role', 'alter-role') AND r ->> 'comment' IS NOT NULL \gexec
SELECT format('GRANT %I TO %I%s%s', r ->> 'role', r ->> 'member',
  CASE WHEN current_setting('server_version_num')::int >= 160000 THEN format(' WITH ADMIN %s%s%s', (r ->> 'admin')::boolean::text,
      CASE WHEN r ->> 'inherit' IS NOT NULL THEN format(', INHERIT %s', (r ->> 'inherit')::boolean::text) ELSE '' END,
      CASE WHEN r ->> 'set' IS NOT NULL THEN format(', SET %s', (r ->> 'set')::boolean::text) ELSE '' END)
    WHEN (r ->> 'admin')::boolean THEN ' WITH ADMIN OPTION' ELSE '' END,
  CASE WHEN NOT (r ->> 'grantor_bootstrap')::boolean THEN format(' GRANTED BY %I', r ->> 'grantor') ELSE '' END)
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'grant-role' \gexec
-- A list of names is stored quoted as a list: it is taken apart, or it would become one name.
SELECT format('ALTER %s%s SET %I TO %s',
  CASE WHEN r ->> 'role' IS NOT NULL THEN format('ROLE %I', r ->> 'role') WHEN r ->> 'database' IS NULL THEN 'ROLE ALL' ELSE '' END,
  CASE WHEN r ->> 'database' IS NULL THEN '' WHEN r ->> 'role' IS NULL THEN format('DATABASE %I', r ->> 'database')
    ELSE format(' IN DATABASE %I', r ->> 'database') END,
  r ->> 'name',
  CASE WHEN lower(r ->> 'name') IN ('local_preload_libraries', 'search_path', 'session_preload_libraries',
      'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories', 'oauth_validator_libraries')
    THEN COALESCE((SELECT string_agg(quote_literal(CASE WHEN m[1] LIKE '"%' THEN replace(substr(m[1], 2, length(m[1]) - 2), '""', '"') ELSE m[1] END), ', ' ORDER BY o)
      FROM regexp_matches(r ->> 'value', '("(?:[^"]|"")*"|[^,"[:space:]][^,"[:space:]]*)', 'g') WITH ORDINALITY AS found(m, o)), quote_literal(''))
    ELSE quote_literal(r ->> 'value') END)
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'set' \gexec
SELECT format('CREATE TABLESPACE %I OWNER %I LOCATION %L', r ->> 'name', r ->> 'owner', r ->> 'location')
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'create-tablespace' \gexec
SELECT format('ALTER TABLESPACE %I SET (%s)', r ->> 'name',
  (SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM jsonb_array_elements_text(r -> 'options') AS o))
FROM (SELECT (:'row')::jsonb AS r) AS given
WHERE :'action' = 'create-tablespace' AND jsonb_typeof(r -> 'options') = 'array' AND jsonb_array_length(r -> 'options') > 0 \gexec
SELECT format('COMMENT ON TABLESPACE %I IS %L', r ->> 'name', r ->> 'comment')
FROM (SELECT (:'row')::jsonb AS r) AS given WHERE :'action' = 'create-tablespace' AND r ->> 'comment' IS NOT NULL \gexec
BEGIN;
SELECT format('REVOKE ALL ON %s %I FROM PUBLIC, %I', upper(r ->> 'object'), r ->> 'name', r ->> 'owner')
FROM (SELECT (:'row')::jsonb AS r) AS given
WHERE :'action' = 'privileges' AND r ->> 'object' IN ('database', 'tablespace') \gexec
SELECT format('GRANT %s ON %s %s TO %s%s', g ->> 'privilege', upper(r ->> 'object'),
  CASE WHEN r ->> 'object' = 'parameter' THEN (SELECT string_agg(quote_ident(p), '.') FROM unnest(string_to_array(r ->> 'name', '.')) AS p) ELSE quote_ident(r ->> 'name') END,
  COALESCE(quote_ident(g ->> 'grantee'), 'PUBLIC'), CASE WHEN (g ->> 'grantable')::boolean THEN ' WITH GRANT OPTION' ELSE '' END)
FROM (SELECT (:'row')::jsonb AS r) AS given CROSS JOIN LATERAL jsonb_array_elements(r -> 'grants') WITH ORDINALITY AS granted(g, o)
WHERE :'action' = 'privileges' AND r ->> 'object' IN ('database', 'tablespace', 'parameter')
  AND g ->> 'privilege' IN ('CREATE', 'CONNECT', 'TEMPORARY', 'SET', 'ALTER SYSTEM') ORDER BY o \gexec
COMMIT;
