"""The measurements behind the profile ``plus``: grounding on cached, frozen features."""
