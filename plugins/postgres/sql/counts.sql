-- Counts rows, smallest tables first. A table that takes too long, and what is left when the time
-- is over, has no count. With `snapshot` it counts what the dump sees.
SET search_path = pg_catalog;
SET row_security = off;
SELECT set_config(name, '0', false) AS ignored FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout') \g /dev/null
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
\if :{?snapshot}
SET TRANSACTION SNAPSHOT :'snapshot';
\endif
SELECT json_build_object('kind', 'session', 'database', current_database(), 'pid', pg_backend_pid(), 'snapshot', '');
SELECT clock_timestamp() + make_interval(secs => :'total_seconds'::float8) AS deadline,
  set_config('statement_timeout', :'table_ms', true) AS table_ms \gset
\set ON_ERROR_ROLLBACK on
\set ON_ERROR_STOP off
SELECT format('SELECT json_build_object(''kind'', ''count'', ''schema'', %L, ''name'', %L, ''rows'', CASE WHEN clock_timestamp() < %L::timestamptz THEN (SELECT count(*) FROM ONLY %I.%I) END)',
  n.nspname, c.relname, :'deadline', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend e ON e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e'
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't' AND e.objid IS NULL
  AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery())
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY c.relpages, n.nspname COLLATE "C", c.relname COLLATE "C" \gexec
\set ON_ERROR_STOP on
SELECT json_build_object('kind', 'end');
