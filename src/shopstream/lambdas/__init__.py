"""The Lambda functions of the AWS profile: signals become incidents, and a schedule moves time on."""
