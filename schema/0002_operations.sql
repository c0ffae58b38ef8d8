-- What operators' tools need: a drift that can be settled, and histories that can
-- be looked up.

-- Counts the changes of what a provider does. The digest that settles a drift is
-- bound to it, so that a choice made once never overwrites a later change.
alter table ai_providers add column revision bigint not null default 1;

-- A change in SQL counts like one through the library. Sealing the same settings
-- with another key is none; the statement that does it says so.
create function ai_providers_count_revision() returns trigger language plpgsql as $$
begin
    if (new.type, new.base_url, new.deleted) is distinct from (old.type, old.base_url, old.deleted)
       or (new.settings is distinct from old.settings and current_setting('aiseed.resealing', true) is distinct from 'on')
    then
        new.revision := old.revision + 1;
    end if;
    return new;
end $$;

create trigger ai_providers_count_revision before update on ai_providers
    for each row execute function ai_providers_count_revision();

create index ai_provider_audits_resource_id_idx on ai_provider_audits (resource_id, seq);

insert into aiseed_schema (version) values (2);
