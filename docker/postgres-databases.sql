-- The registry's own database is made from POSTGRES_DB; the two servers get one each.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
