-- One JSON object: what in this database keeps a dump from working, or from coming back.
SET search_path = pg_catalog;
SET statement_timeout = '60s';
SELECT json_build_object(
  'database', current_database(),
  'bytes', pg_database_size(current_database()),
  'unreadable', (SELECT json_build_object('count', count(*), 'first', (array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname))[1:5])
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
      AND NOT (has_schema_privilege(n.oid, 'USAGE')
        AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END)),
  'row_security', (SELECT json_build_object('count', count(*), 'first', (array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname))[1:5])
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity AND row_security_active(c.oid)),
  'unreadable_large_objects', (SELECT count(*) FROM pg_largeobject_metadata m
    WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT pg_has_role(m.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) x WHERE x.privilege_type = 'SELECT' AND (x.grantee = 0 OR pg_has_role(x.grantee, 'USAGE')))),
  'large_objects', (SELECT count(*) FROM pg_largeobject_metadata),
  'invalid_indexes', (SELECT json_build_object('count', count(*), 'first', (array_agg(i.indexrelid::regclass::text ORDER BY i.indexrelid::regclass::text))[1:5]) FROM pg_index i WHERE NOT i.indisvalid),
  'unlogged', (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'),
  'extensions_missing', (SELECT COALESCE(json_agg(x.extname ORDER BY x.extname), '[]') FROM pg_extension x
    WHERE NOT EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = x.extname AND v.version = x.extversion)),
  'subscriptions', (SELECT count(*) FROM pg_stat_subscription s JOIN pg_database d ON d.datname = current_database()),
  'foreign_tables', (SELECT count(*) FROM pg_foreign_table),
  'collation', (SELECT CASE WHEN current_setting('server_version_num')::int >= 150000 THEN to_jsonb(d) ->> 'datcollversion' END FROM pg_database d WHERE datname = current_database())
);
SELECT current_setting('server_version_num')::int >= 150000 AS has_collation_version \gset
\if :has_collation_version
SELECT json_build_object('collation_actual', pg_database_collation_actual_version(oid)) FROM pg_database WHERE datname = current_database();
\else
SELECT json_build_object('collation_actual', NULL);
\endif
