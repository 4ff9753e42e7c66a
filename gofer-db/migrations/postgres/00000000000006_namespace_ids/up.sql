-- A namespace that is made again under the same name is another one: tokens and events hold this id beside or instead of the name.
ALTER TABLE namespaces ADD COLUMN uid TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE namespaces SET uid = replace(gen_random_uuid()::text, '-', '');
ALTER TABLE namespaces ALTER COLUMN uid DROP DEFAULT;
CREATE UNIQUE INDEX namespaces_uid ON namespaces (uid);

-- The namespaces of tokens are ids from here on. A token that is older than a namespace was made for one of that name before it.
UPDATE tokens SET namespaces = (
    SELECT coalesce(json_agg(namespaces.uid ORDER BY named.place), '[]')::text
    FROM json_array_elements_text(tokens.namespaces::json) WITH ORDINALITY AS named (id, place)
    JOIN namespaces ON namespaces.id = named.id AND namespaces.created_at <= tokens.created_at
) WHERE kind = 'client';

-- NULL: of no namespace, or of one that is gone.
ALTER TABLE events ADD COLUMN namespace_uid TEXT COLLATE "C";
WITH present AS MATERIALIZED (
    SELECT namespaces.id AS name, namespaces.uid AS uid, coalesce((
        SELECT max(gone.id) FROM events AS gone
        WHERE gone.namespace = namespaces.id AND gone.type = 'namespace_deleted'
    ), 0) AS since
    FROM namespaces
)
UPDATE events SET namespace_uid = present.uid
    FROM present WHERE events.namespace = present.name AND events.id > present.since;
DROP INDEX events_by_namespace;
CREATE INDEX events_by_namespace ON events (namespace_uid, id) WHERE namespace_uid IS NOT NULL;
