-- The types of providers that came later: see the table in provider.go.

alter table ai_providers drop constraint ai_providers_type_check;
alter table ai_providers add constraint ai_providers_type_check check (type in (
    'anthropic', 'azure', 'bedrock', 'copilot', 'google', 'openai', 'openai-compat', 'openrouter', 'vercel'));

-- A client of the operations names the revision that it decided on. So the revision counts each
-- change of a provider that it can see. The library counts changes of keys with the row.
create or replace function ai_providers_count_revision() returns trigger language plpgsql as $$
begin
    if (new.type, new.display_name, new.enabled, new.base_url, new.deleted)
           is distinct from (old.type, old.display_name, old.enabled, old.base_url, old.deleted)
       or (new.settings is distinct from old.settings and current_setting('aiseed.resealing', true) is distinct from 'on')
    then
        new.revision := old.revision + 1;
    end if;
    return new;
end $$;

-- The oldest version that a process has to know to write to the tables. The highest
-- one of all rows counts.
alter table aiseed_schema add column oldest_writer int not null default 1;

-- What is delivered can be deleted, the oldest first.
create index ai_provider_audits_delivered_idx on ai_provider_audits (created_at) where delivered_at is not null;

insert into aiseed_schema (version) values (3);
