-- What a day's usage is counted by. Rows come nearly in the order of these times, so a range index of a few pages does.
CREATE INDEX events_by_acceptance ON memori.events USING brin (accepted_at_us) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX outcomes_by_end ON memori.outcomes USING brin (ended_at_us) WITH (pages_per_range = 32, autosummarize = on);
