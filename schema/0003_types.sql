-- The types of providers that came later: see the table in provider.go.

alter table ai_providers drop constraint ai_providers_type_check;
alter table ai_providers add constraint ai_providers_type_check check (type in (
    'anthropic', 'azure', 'bedrock', 'copilot', 'google', 'openai', 'openai-compat', 'openrouter', 'vercel'));

insert into aiseed_schema (version) values (3);
