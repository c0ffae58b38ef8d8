-- The types of providers that came later: see the table in provider.go.

alter table ai_providers drop constraint ai_providers_type_check;
alter table ai_providers add constraint ai_providers_type_check check (type in (
    'anthropic', 'azure', 'bedrock', 'copilot', 'google', 'openai', 'openai-compat', 'openrouter', 'vercel'));

-- What is delivered can be deleted, the oldest first.
create index ai_provider_audits_delivered_idx on ai_provider_audits (created_at) where delivered_at is not null;

insert into aiseed_schema (version) values (3);
