//! The tables, as both engines' migrations make them, and a function both have.

diesel::table! {
    namespaces (id) {
        id -> Text,
        uid -> Text,
        description -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
        quotas -> Text,
    }
}

diesel::table! {
    pipelines (id) {
        id -> BigInt,
        namespace -> Text,
        name -> Text,
        enabled -> Bool,
        latest_version -> BigInt,
        last_run -> BigInt,
        parallelism -> Nullable<BigInt>,
        overlap -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        minute -> BigInt,
        minute_runs -> BigInt,
        minute_bytes -> BigInt,
        versions -> BigInt,
        version_bytes -> BigInt,
        object_bytes -> BigInt,
        upload_bytes -> BigInt,
    }
}

diesel::table! {
    pipeline_versions (pipeline_id, version) {
        pipeline_id -> BigInt,
        version -> BigInt,
        spec -> Text,
        digest -> Text,
        registered_by -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    runs (id) {
        id -> BigInt,
        pipeline_id -> BigInt,
        namespace -> Text,
        pipeline -> Text,
        number -> BigInt,
        version -> BigInt,
        state -> Text,
        status -> Nullable<Text>,
        reason -> Nullable<Text>,
        initiator -> Text,
        variables -> Text,
        retry_of -> Nullable<BigInt>,
        cancel_at -> Nullable<BigInt>,
        cancel_by -> Nullable<Text>,
        cancel_force -> Nullable<Bool>,
        cancel_message -> Nullable<Text>,
        token_nonce -> Binary,
        token_hash -> Binary,
        idempotency_key -> Nullable<Text>,
        created_at -> BigInt,
        started_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
        lease_owner -> Nullable<Text>,
        lease_until -> BigInt,
        lease_epoch -> BigInt,
    }
}

diesel::table! {
    task_runs (run_id, task) {
        run_id -> BigInt,
        task -> Text,
        state -> Text,
        status -> Nullable<Text>,
        attempt -> BigInt,
        losses -> BigInt,
        reason -> Nullable<Text>,
        exit_code -> Nullable<Integer>,
        not_before -> Nullable<BigInt>,
        intended_at -> Nullable<BigInt>,
        started_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
        cancel_at -> Nullable<BigInt>,
        cancel_by -> Nullable<Text>,
        cancel_force -> Nullable<Bool>,
        cancel_message -> Nullable<Text>,
        stop -> Nullable<Text>,
        incarnation -> BigInt,
    }
}

diesel::table! {
    attempts (id) {
        id -> BigInt,
        run_id -> BigInt,
        task -> Text,
        attempt -> BigInt,
        status -> Text,
        reason -> Nullable<Text>,
        exit_code -> Nullable<Integer>,
        intended_at -> BigInt,
        started_at -> Nullable<BigInt>,
        ended_at -> BigInt,
        log -> Text,
        silent -> Bool,
        log_bytes -> BigInt,
    }
}

diesel::table! {
    events (id) {
        id -> BigInt,
        at -> BigInt,
        actor -> Text,
        namespace -> Nullable<Text>,
        pipeline -> Nullable<Text>,
        run -> Nullable<BigInt>,
        task -> Nullable<Text>,
        attempt -> Nullable<BigInt>,
        #[sql_name = "type"]
        kind -> Text,
        details -> Text,
        namespace_uid -> Nullable<Text>,
    }
}

diesel::table! {
    event_counter (id) {
        id -> BigInt,
        last -> BigInt,
    }
}

diesel::table! {
    objects (pipeline_id, run, key) {
        pipeline_id -> BigInt,
        run -> BigInt,
        key -> Text,
        location -> Text,
        size_bytes -> BigInt,
        sha256 -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    object_uploads (id) {
        id -> Text,
        pipeline_id -> BigInt,
        run -> BigInt,
        key -> Text,
        location -> Text,
        size_bytes -> Nullable<BigInt>,
        sha256 -> Nullable<Text>,
        if_absent -> Bool,
        expires_at -> BigInt,
        state -> Text,
        outcome -> Nullable<Text>,
        reserved_bytes -> BigInt,
    }
}

diesel::table! {
    secrets (pipeline_id, key) {
        pipeline_id -> BigInt,
        key -> Text,
        location -> Text,
        allowed_namespaces -> Text,
        updated_by -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    run_masks (location) {
        location -> Text,
        namespace -> Text,
        pipeline -> Text,
        run -> BigInt,
        size_bytes -> BigInt,
        at -> BigInt,
    }
}

diesel::table! {
    secret_values (location) {
        location -> Text,
        state -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    tokens (id) {
        id -> Text,
        hash -> Binary,
        kind -> Text,
        namespaces -> Text,
        description -> Text,
        created_by -> Text,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        disabled -> Bool,
    }
}

diesel::table! {
    local_secrets (path) {
        path -> Text,
        key_id -> Text,
        ciphertext -> Binary,
    }
}

diesel::table! {
    markers (name) {
        name -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    lead (id) {
        id -> BigInt,
        owner -> Text,
        until -> BigInt,
    }
}

diesel::table! {
    servers (name) {
        name -> Text,
        until -> BigInt,
    }
}

diesel::table! {
    exec_sessions (id) {
        id -> Text,
        server -> Text,
        namespace -> Text,
        pipeline -> Text,
        run -> BigInt,
        task -> Text,
        at -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(exec_sessions, servers);

diesel::allow_tables_to_appear_in_same_query!(
    attempts,
    namespaces,
    object_uploads,
    objects,
    pipeline_versions,
    pipelines,
    run_masks,
    runs,
    secrets,
    task_runs,
);

diesel::allow_tables_to_appear_in_same_query!(events, namespaces);

diesel::define_sql_function! {
    /// The first that is not null.
    fn coalesce(
        first: diesel::sql_types::Nullable<diesel::sql_types::BigInt>,
        second: diesel::sql_types::Nullable<diesel::sql_types::BigInt>,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::BigInt>;
}

diesel::define_sql_function! {
    /// The same of texts.
    #[sql_name = "coalesce"]
    fn coalesce_text(
        first: diesel::sql_types::Nullable<diesel::sql_types::Text>,
        second: diesel::sql_types::Nullable<diesel::sql_types::Text>,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}
