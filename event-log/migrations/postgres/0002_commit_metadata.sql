-- What a group says beside its offset: replaced with it, and its own to read.
ALTER TABLE memori.log_group_offsets ADD COLUMN metadata text NOT NULL DEFAULT '';
