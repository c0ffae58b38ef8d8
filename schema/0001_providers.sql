-- AI providers, their keys, the audit trail of both, and the keys that seal them.
-- The names are not qualified: apply this file with search_path set to the schema.

create table aiseed_schema (
    version    int         primary key,
    applied_at timestamptz not null default now()
);

-- The keys that have sealed something here. The canary is sealed with the key
-- itself, so that a keyring can be checked before it is used.
create table ai_encryption_keys (
    id         text        primary key,
    canary     text        not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);

create table ai_providers (
    id              uuid        primary key,
    type            text        not null constraint ai_providers_type_check
                                check (type in ('openai', 'anthropic')),
    name            text        collate "C" not null constraint ai_providers_name_check
                                check (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and octet_length(name) <= 255),
    display_name    text,
    enabled         boolean     not null default true,
    deleted         boolean     not null default false,
    base_url        text        not null default '',
    settings        text,
    settings_key_id text        references ai_encryption_keys (id),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint ai_providers_settings_key_id_check check (settings is not null or settings_key_id is null)
);

-- One live row per name. Tombstones share names, with it and with one another.
create unique index ai_providers_live_name_key on ai_providers (name) where not deleted;
create index ai_providers_name_idx on ai_providers (name);
create index ai_providers_settings_key_id_idx on ai_providers (settings_key_id);

create table ai_provider_keys (
    id             uuid        primary key,
    provider_id    uuid        not null references ai_providers (id) on delete cascade,
    position       int         not null,
    api_key        text        not null,
    api_key_key_id text        references ai_encryption_keys (id),
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint ai_provider_keys_position_key unique (provider_id, position)
);

create index ai_provider_keys_api_key_key_id_idx on ai_provider_keys (api_key_key_id);

-- No foreign key to ai_providers: an audit entry outlives what it tells of.
create table ai_provider_audits (
    id            uuid        primary key,
    seq           bigint      generated always as identity,
    created_at    timestamptz not null default now(),
    actor         text        not null,
    action        text        not null,
    resource      text        not null,
    resource_id   uuid        not null,
    provider_id   uuid        not null,
    provider_name text        not null,
    old           jsonb,
    new           jsonb,
    delivered_at  timestamptz
);

create index ai_provider_audits_undelivered_idx on ai_provider_audits (seq) where delivered_at is null;

insert into aiseed_schema (version) values (1);
