//! What every process shares: configuration, telemetry, metrics, health, ordered shutdown.
