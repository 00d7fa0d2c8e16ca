-- One JSON object a line: the stored form of each role's password. Goes into the store unseen.
SET search_path = pg_catalog;
SELECT json_build_object('name', rolname, 'password', rolpassword)
FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname !~ '^pg_' ORDER BY rolname COLLATE "C";
