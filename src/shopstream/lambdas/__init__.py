"""The functions of the AWS profile: signals become incidents, and time passes."""

__all__: list[str] = []
