-- Run once, on an empty PostgreSQL; the database `prefect` is made by the image itself.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
