-- As in the schema memori: of another role's rows those of one tenant. Nobody but the owner has a right to more than the first of these.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['active_generations', 'tenants', 'api_keys', 'quotas', 'usage_days', 'audit_log'] LOOP
        EXECUTE format('ALTER TABLE memori_control.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenants_are_walls ON memori_control.%I USING (tenant = current_setting(''memori.tenant'', true))', name);
    END LOOP;
END $$;
