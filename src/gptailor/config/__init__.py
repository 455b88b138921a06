"""The config file `tailor.yaml`: its schema and the messages about its mistakes."""

from gptailor.config.schema import Config, config_of, load_config

__all__ = ["Config", "config_of", "load_config"]
