#!/bin/sh
# Start MLflow's server with sign-in. MLflow reads the address of its user database from a file only, so the file is written here.
set -eu
: "${MLFLOW_AUTH_DATABASE_URI:?SQLAlchemy address of the user database}"
: "${MLFLOW_BACKEND_STORE_URI:?SQLAlchemy address of the tracking database}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?s3://bucket/prefix}"
: "${MLFLOW_ALLOWED_HOSTS:?comma-separated host:port names that clients use; others are answered 403}"
umask 077
export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<EOF
[mlflow]
default_permission = READ
database_uri = $MLFLOW_AUTH_DATABASE_URI
admin_username = admin
EOF
exec mlflow server --host 0.0.0.0 --port 5000 --workers 2 --app-name basic-auth \
    --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" \
    --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" --serve-artifacts \
    --allowed-hosts "$MLFLOW_ALLOWED_HOSTS"
