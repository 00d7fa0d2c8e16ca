-- Says what is in a database, as the snapshot of a backup does.
SET search_path = pg_catalog;
SELECT set_config(name, '0', false) AS ignored FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout') \g /dev/null
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT json_build_object('kind', 'session', 'database', current_database(), 'pid', pg_backend_pid(), 'snapshot', '');
SELECT json_build_object('kind', 'table', 'schema', n.nspname, 'name', c.relname, 'relkind', c.relkind,
  'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner), 'populated', c.relispopulated,
  'bytes', COALESCE(pg_relation_size(c.oid), 0), 'estimate', c.reltuples::bigint, 'extension', x.extname,
  'configuration', c.oid = ANY (x.extconfig), 'row_security', row_security_active(c.oid),
  'constraints', (SELECT COALESCE(json_agg(k.conname || ' ' || pg_get_constraintdef(k.oid) ORDER BY k.conname COLLATE "C"), '[]')
    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n'),
  'privileges', (SELECT json_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(COALESCE(c.relacl, acldefault('r', c.relowner))) AS a))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend e ON e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e'
  LEFT JOIN pg_extension x ON x.oid = e.refobjid
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C";
SELECT json_build_object('kind', 'extension', 'name', x.extname, 'version', x.extversion, 'schema', n.nspname)
FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace ORDER BY x.extname COLLATE "C";
WITH member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
own AS (SELECT oid, nspname FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'),
relation AS (SELECT c.oid, c.relkind, c.relname, c.relacl, n.nspname FROM pg_class c JOIN own n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)),
thing AS (
  SELECT 'schemas' AS what, n.nspname::text AS name, COALESCE((SELECT string_agg(a::text, ',' ORDER BY a::text COLLATE "C") FROM unnest(n.nspacl) AS a), '') AS definition
    FROM pg_namespace n JOIN own USING (oid) WHERE n.nspname <> 'public' AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
  UNION ALL SELECT CASE relkind WHEN 'v' THEN 'views' ELSE 'materialised views' END, format('%I.%I', nspname, relname), pg_get_viewdef(oid) FROM relation WHERE relkind IN ('v', 'm')
  UNION ALL SELECT 'sequences', format('%I.%I', nspname, relname), '' FROM relation WHERE relkind = 'S'
  UNION ALL SELECT 'indexes', format('%I.%I', r.nspname, r.relname), pg_get_indexdef(r.oid) FROM relation r JOIN pg_index i ON i.indexrelid = r.oid
    JOIN relation t ON t.oid = i.indrelid WHERE i.indisvalid
  UNION ALL SELECT 'functions', p.oid::regprocedure::text, md5(p.prosrc) || COALESCE((SELECT string_agg(a::text, ',' ORDER BY a::text COLLATE "C") FROM unnest(p.proacl) AS a), '')
    FROM pg_proc p JOIN own n ON n.oid = p.pronamespace WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
  UNION ALL SELECT 'triggers', format('%I.%I.%I', r.nspname, r.relname, t.tgname), pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
  UNION ALL SELECT 'policies', format('%I.%I.%I', r.nspname, r.relname, p.polname), COALESCE(pg_get_expr(p.polqual, p.polrelid), '') || '/' || COALESCE(pg_get_expr(p.polwithcheck, p.polrelid), '')
    FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL SELECT 'types', t.oid::regtype::text, t.typtype::text || COALESCE((SELECT string_agg(enumlabel::text, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid), '')
    FROM pg_type t JOIN own n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
  UNION ALL SELECT 'columns', format('%I.%I.%I', r.nspname, r.relname, a.attname), format_type(a.atttypid, a.atttypmod) || a.attnotnull::text || a.attidentity::text || a.attgenerated::text || COALESCE(pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid AND r.relkind IN ('r', 'p', 'f', 'v', 'm') LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION ALL SELECT 'publications', p.pubname::text, '' FROM pg_publication p
  UNION ALL SELECT 'event triggers', e.evtname::text, e.evtevent::text FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = e.oid)
  UNION ALL SELECT 'foreign servers', s.srvname::text, '' FROM pg_foreign_server s
  UNION ALL SELECT 'comments', d.classoid::regclass || ' ' || (pg_identify_object(d.classoid, d.objoid, d.objsubid)).identity, md5(d.description) FROM pg_description d
    JOIN relation r ON d.classoid = 'pg_class'::regclass AND d.objoid = r.oid
  UNION ALL SELECT 'large objects', oid::text, '' FROM pg_largeobject_metadata)
SELECT json_build_object('kind', 'objects', 'what', what, 'count', count(*),
  'digest', md5(string_agg(name || E'\n' || definition, E'\n' ORDER BY name COLLATE "C", definition COLLATE "C")))
FROM thing GROUP BY what ORDER BY what COLLATE "C";
SELECT json_build_object('kind', 'end');
