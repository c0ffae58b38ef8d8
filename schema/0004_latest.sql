-- For each name a start reads one row: the live one, or the one that was deleted last.
create index ai_providers_latest_idx on ai_providers (name, deleted, updated_at desc, id);

-- The new one serves whatever this one did.
drop index ai_providers_name_idx;

insert into aiseed_schema (version) values (4);
