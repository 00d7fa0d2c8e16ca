-- One JSON object: the server, who asks, and its databases.
SET search_path = pg_catalog;
SELECT json_build_object(
  'pid', pg_backend_pid(),
  'database', current_database(),
  'version_num', current_setting('server_version_num')::int,
  'version', current_setting('server_version'),
  'psql_version_num', :'VERSION_NUM'::int,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'in_recovery', pg_is_in_recovery(),
  'user', current_user,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'create_role', (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user),
  'create_db', (SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user),
  'reads_passwords', has_table_privilege('pg_authid', 'SELECT'),
  'server_address', host(inet_server_addr()),
  'cluster_name', current_setting('cluster_name'),
  'databases', (
    SELECT json_agg(json_build_object(
      'name', datname,
      'template', datistemplate,
      'connects', datallowconn AND datconnlimit <> -2,
      'permitted', has_database_privilege(oid, 'CONNECT'),
      'bytes', CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END
    ) ORDER BY datname COLLATE "C")
    FROM pg_database
  )
);
