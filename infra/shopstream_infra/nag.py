"""Findings of cdk-nag that are accepted, each where it arises and with its reason."""

from collections.abc import Sequence

from aws_cdk import Aspects, Stage
from cdk_nag import AwsSolutionsChecks, NagPackSuppression, NagReportFormat, NagSuppressions, RegexAppliesTo
from constructs import IConstruct

__all__ = ["accept", "check"]


def check(stage: Stage, *, tell_accepted: bool = False) -> None:
    """Let every resource of a stage be checked by AwsSolutions; a finding that is not accepted fails the synth.

    Args:
        stage: what is checked.
        tell_accepted: also tell of each finding that is accepted, as information on its resource.
    """
    checks = AwsSolutionsChecks(
        verbose=True, reports=True, report_formats=[NagReportFormat.JSON], log_ignores=tell_accepted
    )
    Aspects.of(stage).add(checks)


def accept(
    construct: IConstruct, rule: str, reason: str, *, findings: Sequence[str] = (), children: bool = False
) -> None:
    """Accept one rule's findings at a construct.

    Args:
        construct: where the finding arises.
        rule: such as `AwsSolutions-IAM5`.
        reason: why it stands; a test asks for one, and that something is suppressed by it.
        findings: only these, such as `Resource::*`; between slashes, a regular expression. None
            accepts all of the rule.
        children: also at what the construct holds by now.
    """
    only = [RegexAppliesTo(regex=finding) if finding.startswith("/") else finding for finding in findings]
    suppression = NagPackSuppression(id=rule, reason=reason, applies_to=only or None)
    NagSuppressions.add_resource_suppressions(construct, [suppression], apply_to_children=children)
