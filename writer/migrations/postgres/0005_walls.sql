-- Whoever does not own these tables sees the rows of one tenant at a time, the one that memori.tenant names, and without a name none.
-- The owner writes for all tenants, and COPY into a table knows no policies: it is held by the statements, not by these.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['entities', 'events', 'messages', 'outcomes', 'facts', 'mentions', 'fact_stats', 'validity', 'erasures',
        'forgets', 'dead_letters', 'message_vectors', 'entity_changes', 'packs'] LOOP
        EXECUTE format('ALTER TABLE memori.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenants_are_walls ON memori.%I USING (tenant = current_setting(''memori.tenant'', true))', name);
    END LOOP;
END $$;
