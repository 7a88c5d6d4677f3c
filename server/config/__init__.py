"""The YAML file as frozen structs."""
