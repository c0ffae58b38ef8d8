-- The types of providers that came later: see the table in provider.go.

alter table ai_providers drop constraint ai_providers_type_check;
alter table ai_providers add constraint ai_providers_type_check check (type in (
    'anthropic', 'azure', 'bedrock', 'copilot', 'google', 'openai', 'openai-compat', 'openrouter', 'vercel'));

-- The oldest version that a process has to know to write to the tables. The highest
-- one of all rows counts.
alter table aiseed_schema add column oldest_writer int not null default 1;

insert into aiseed_schema (version) values (3);
