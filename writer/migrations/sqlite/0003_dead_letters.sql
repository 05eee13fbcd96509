-- What operators list dead letters by: the time they were given up, of one tenant or of all.
CREATE INDEX dead_letters_of_tenant ON dead_letters
    (tenant, failed_at_us, source_topic_id, source_partition, source_offset, generation);
CREATE INDEX dead_letters_by_time ON dead_letters
    (failed_at_us, source_topic_id, source_partition, source_offset, generation);
