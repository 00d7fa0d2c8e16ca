-- One JSON object: what on the server keeps a backup from working, or will.
SET search_path = pg_catalog;
SET statement_timeout = '60s';
SELECT json_build_object(
  'data_checksums', current_setting('data_checksums'),
  'sees_statistics', pg_has_role('pg_read_all_stats', 'USAGE'),
  'data_directory', CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END,
  'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  'max_connections', current_setting('max_connections')::int,
  'reserved_connections', current_setting('superuser_reserved_connections')::int,
  'uptime_seconds', extract(epoch FROM now() - pg_postmaster_start_time())::bigint,
  'transactions', (SELECT COALESCE(json_agg(json_build_object('pid', pid, 'user', usename, 'database', datname,
      'application', application_name, 'state', state, 'seconds', extract(epoch FROM now() - xact_start)::bigint) ORDER BY xact_start), '[]')
    FROM (SELECT * FROM pg_stat_activity WHERE xact_start < now() - interval '15 minutes' AND backend_type = 'client backend' ORDER BY xact_start LIMIT 20) AS a),
  'dumps', (SELECT COALESCE(json_agg(json_build_object('pid', pid, 'user', usename, 'database', datname,
      'seconds', extract(epoch FROM now() - backend_start)::bigint) ORDER BY backend_start), '[]')
    FROM (SELECT * FROM pg_stat_activity WHERE application_name IN ('pg_dump', 'pg_dumpall', 'pg_basebackup') ORDER BY backend_start LIMIT 20) AS a),
  'locks', (SELECT COALESCE(json_agg(json_build_object('pid', l.pid, 'database', d.datname, 'relation', l.relation::text, 'granted', l.granted,
      'user', a.usename, 'application', a.application_name, 'seconds', extract(epoch FROM now() - a.xact_start)::bigint)), '[]')
    FROM (SELECT * FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND pid <> pg_backend_pid() ORDER BY granted, pid LIMIT 20) AS l
      LEFT JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid),
  'prepared', (SELECT COALESCE(json_agg(json_build_object('gid', gid, 'owner', owner, 'database', database,
      'seconds', extract(epoch FROM now() - prepared)::bigint) ORDER BY prepared), '[]') FROM (SELECT * FROM pg_prepared_xacts ORDER BY prepared LIMIT 20) AS p),
  'archive_mode', current_setting('archive_mode'),
  'archiver', (SELECT json_build_object('archived', archived_count, 'failed', failed_count, 'last_failed_wal', last_failed_wal,
      'failing', last_failed_time IS NOT NULL AND (last_archived_time IS NULL OR last_failed_time > last_archived_time),
      'failed_seconds_ago', extract(epoch FROM now() - last_failed_time)::bigint,
      'archived_seconds_ago', extract(epoch FROM now() - last_archived_time)::bigint) FROM pg_stat_archiver),
  'max_slot_wal_keep_size', current_setting('max_slot_wal_keep_size'),
  'slots', (SELECT COALESCE(json_agg(json_build_object('name', slot_name, 'type', slot_type, 'active', active, 'status', wal_status,
      'lag_bytes', pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint) ORDER BY slot_name), '[]')
    FROM pg_replication_slots WHERE NOT temporary),
  'wraparound', (SELECT json_build_object('database', datname, 'age', age(datfrozenxid)) FROM pg_database ORDER BY age(datfrozenxid) DESC LIMIT 1),
  'standby_delay', CASE WHEN pg_is_in_recovery() THEN current_setting('max_standby_streaming_delay') END,
  'hot_standby_feedback', CASE WHEN pg_is_in_recovery() THEN current_setting('hot_standby_feedback') END,
  'subscriptions', (SELECT count(*) FROM pg_stat_subscription),
  'role_settings', (SELECT COALESCE(json_agg(c ORDER BY c), '[]') FROM pg_db_role_setting s, unnest(s.setconfig) AS c
    WHERE s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
      AND split_part(c, '=', 1) IN ('role', 'session_authorization', 'row_security', 'default_transaction_deferrable'))
);
