-- One JSON object a line: roles, memberships, settings, tablespaces, privileges on what all
-- databases share, and the properties of each database. No passwords.
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET datestyle = 'ISO';
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT json_build_object('kind', 'role', 'name', rolname, 'bootstrap', oid = 10, 'super', rolsuper,
  'inherit', rolinherit, 'create_role', rolcreaterole, 'create_db', rolcreatedb, 'login', rolcanlogin,
  'replication', rolreplication, 'bypass_rls', rolbypassrls, 'connection_limit', rolconnlimit,
  'valid_until', rolvaliduntil::text, 'comment', shobj_description(oid, 'pg_authid'))
FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname COLLATE "C";
SELECT json_build_object('kind', 'membership', 'role', r.rolname, 'member', m.rolname, 'grantor', g.rolname,
  'grantor_bootstrap', COALESCE(g.oid = 10, true), 'admin', a.admin_option,
  'inherit', (to_jsonb(a) ->> 'inherit_option')::boolean, 'set', (to_jsonb(a) ->> 'set_option')::boolean)
FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
  LEFT JOIN pg_roles g ON g.oid = a.grantor
WHERE m.rolname !~ '^pg_' ORDER BY r.rolname COLLATE "C", m.rolname COLLATE "C", g.rolname COLLATE "C";
SELECT json_build_object('kind', 'setting', 'role', r.rolname, 'database', d.datname,
  'name', split_part(c, '=', 1), 'value', substr(c, strpos(c, '=') + 1))
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
  CROSS JOIN LATERAL unnest(s.setconfig) AS c
ORDER BY d.datname COLLATE "C" NULLS FIRST, r.rolname COLLATE "C" NULLS FIRST, c COLLATE "C";
SELECT json_build_object('kind', 'tablespace', 'name', spcname, 'owner', pg_get_userbyid(spcowner),
  'location', pg_tablespace_location(oid), 'options', spcoptions, 'comment', shobj_description(oid, 'pg_tablespace'))
FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY spcname COLLATE "C";
SELECT json_build_object('kind', 'privileges', 'object', o.object, 'name', o.name, 'owner', pg_get_userbyid(o.owner),
  'grants', (SELECT COALESCE(json_agg(json_build_object('grantee', CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END,
    'privilege', x.privilege_type, 'grantable', x.is_grantable)
    ORDER BY x.grantee <> o.owner, pg_get_userbyid(x.grantee)::text COLLATE "C", x.privilege_type COLLATE "C"), '[]') FROM aclexplode(o.acl) AS x))
FROM (SELECT 'database' AS object, datname::text AS name, datdba AS owner, datacl AS acl FROM pg_database WHERE datname <> 'template0'
      UNION ALL SELECT 'tablespace', spcname::text, spcowner, spcacl FROM pg_tablespace) AS o
WHERE o.acl IS NOT NULL ORDER BY o.object COLLATE "C", o.name COLLATE "C";
SELECT current_setting('server_version_num')::int >= 150000 AS has_parameter_privileges \gset
\if :has_parameter_privileges
SELECT json_build_object('kind', 'privileges', 'object', 'parameter', 'name', p.parname, 'owner', pg_get_userbyid(10),
  'grants', (SELECT json_agg(json_build_object('grantee', CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END,
    'privilege', x.privilege_type, 'grantable', x.is_grantable)
    ORDER BY pg_get_userbyid(x.grantee)::text COLLATE "C", x.privilege_type COLLATE "C") FROM aclexplode(p.paracl) AS x WHERE x.grantee <> 10))
FROM pg_parameter_acl p ORDER BY p.parname COLLATE "C";
\endif
SELECT json_build_object('kind', 'database', 'name', d.datname, 'owner', pg_get_userbyid(d.datdba),
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'provider', COALESCE(to_jsonb(d) ->> 'datlocprovider', 'c'),
  'locale', COALESCE(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'icu_rules', to_jsonb(d) ->> 'daticurules', 'collation_version', to_jsonb(d) ->> 'datcollversion',
  'connection_limit', d.datconnlimit, 'tablespace', t.spcname, 'template', d.datistemplate,
  'connects', d.datallowconn, 'comment', shobj_description(d.oid, 'pg_database'))
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datname <> 'template0' ORDER BY d.datname COLLATE "C";
COMMIT;
SELECT json_build_object('kind', 'end');
