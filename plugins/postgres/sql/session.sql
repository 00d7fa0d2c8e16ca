-- Stays connected without a transaction: who else gets this backend shares it through a pooler.
SELECT json_build_object('pid', pg_backend_pid());
