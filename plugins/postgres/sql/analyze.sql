SET client_min_messages = error;
ANALYZE;
