-- The restored database takes the place of the old one.
DROP DATABASE IF EXISTS :"name" WITH (FORCE);
ALTER DATABASE :"staging" RENAME TO :"name";
