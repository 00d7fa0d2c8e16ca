SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS amcheck;
