"""Checks a stage with cdk-nag, and suppresses findings where they arise, with their reason."""

from collections.abc import Sequence

from aws_cdk import Aspects, Stage
from cdk_nag import AwsSolutionsChecks, NagPackSuppression, NagReportFormat, NagSuppressions, RegexAppliesTo
from constructs import IConstruct

__all__ = ["accept", "check"]


def check(stage: Stage, *, report_accepted: bool = False) -> None:
    """Check every resource of a stage with AwsSolutions; an unaccepted finding fails the synthesis.

    Args:
        stage: the stage to check.
        report_accepted: also report accepted findings, as information on their resource.
    """
    checks = AwsSolutionsChecks(
        verbose=True, reports=True, report_formats=[NagReportFormat.JSON], log_ignores=report_accepted
    )
    Aspects.of(stage).add(checks)


def accept(
    construct: IConstruct, rule: str, reason: str, *, findings: Sequence[str] = (), children: bool = False
) -> None:
    """Accept one rule's findings on a construct.

    Args:
        construct: where the finding arises.
        rule: such as `AwsSolutions-IAM5`.
        reason: why it is acceptable; a test requires one, and that it suppresses something.
        findings: only these, such as `Resource::*`; between slashes, a regular expression. None
            accepts all of the rule.
        children: also on its current children.
    """
    only = [RegexAppliesTo(regex=finding) if finding.startswith("/") else finding for finding in findings]
    suppression = NagPackSuppression(id=rule, reason=reason, applies_to=only or None)
    NagSuppressions.add_resource_suppressions(construct, [suppression], apply_to_children=children)
