"""What the settings say to the layers below: to actors and to storage, which do not know `Settings`."""

from actors.retry_policy import RetryPolicy
from actors.services import ActorSettings
from server.config import Settings
from storage.retention_records import RetentionPolicy


def make_actor_settings(settings: Settings) -> ActorSettings:
    """Return what actors are told."""
    return ActorSettings(
        turn_timeout_s=settings.turn_timeout_s,
        session_idle_s=settings.session_idle_s,
        session_max_live=settings.session_max_live,
        session_queue_limit=settings.session_queue_limit,
        coalesce_tokens=settings.coalesce_tokens,
        effect_poll_interval_s=settings.effect_poll_interval_ms / 1000,
        event_poll_interval_s=settings.event_queue_process_interval_ms / 1000,
        retry=RetryPolicy(retries=settings.turn_retries, first_pause_s=settings.turn_retry_pause_s),
    )


def make_retention_policy(settings: Settings) -> RetentionPolicy:
    """Return how long things are kept; 0 in the settings is for ever."""
    return RetentionPolicy(
        compact_after_s=settings.compact_after_s or None,
        effect_ttl_s=settings.effect_ttl_s or None,
        retention_s=settings.retention_days * 86_400 or None,
    )
