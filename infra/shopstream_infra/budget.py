"""A monthly budget that notifies before it is reached."""

from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_sns as sns
from constructs import Construct

from shopstream_infra.config import StageConfig

__all__ = ["Budget"]

_NOTIFY_AT = (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))


class Budget(Construct):
    """Counts what carries this stage's tag: activate the cost allocation tag `stage` once in the billing console.

    It stops nothing: AWS notifies the operators, hours later.
    """

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, ops: sns.ITopic) -> None:
        super().__init__(scope, construct_id)
        kind = budgets.CfnBudget
        kind(
            self,
            "Monthly",
            budget=kind.BudgetDataProperty(
                budget_name=config.named("monthly"),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=kind.SpendProperty(amount=config.monthly_budget_usd, unit="USD"),
                cost_filters={"TagKeyValue": [f"user:stage${config.name}"]},
            ),
            notifications_with_subscribers=[
                kind.NotificationWithSubscribersProperty(
                    notification=kind.NotificationProperty(
                        comparison_operator="GREATER_THAN",
                        notification_type=counted,
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[kind.SubscriberProperty(subscription_type="SNS", address=ops.topic_arn)],
                )
                for counted, percent in _NOTIFY_AT
            ],
        )
