-- The registry's own database is made from POSTGRES_DB; the two servers get theirs.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
CREATE DATABASE prefect;
