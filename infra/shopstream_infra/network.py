"""The workers' network: private subnets, endpoints to AWS, NAT gateways if configured."""

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.logs import log_group

__all__ = ["Network"]

_INTERFACES = {
    "Kinesis": ec2.InterfaceVpcEndpointAwsService.KINESIS_STREAMS,
    "Firehose": ec2.InterfaceVpcEndpointAwsService.KINESIS_FIREHOSE,
    "Glue": ec2.InterfaceVpcEndpointAwsService.GLUE,
    "Athena": ec2.InterfaceVpcEndpointAwsService.ATHENA,
    "Metrics": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_MONITORING,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Ecr": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
    "Sns": ec2.InterfaceVpcEndpointAwsService.SNS,
    "Sts": ec2.InterfaceVpcEndpointAwsService.STS,
    "SsmMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
}
"""Services that the worker calls, besides S3 and DynamoDB, whose gateway endpoints are free."""


class Network(Construct):
    """A VPC of two zones; security group `workers` allows HTTPS out and nothing in."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        nat = config.egress == "nat"
        private = ec2.SubnetType.PRIVATE_WITH_EGRESS if nat else ec2.SubnetType.PRIVATE_ISOLATED
        subnets = [ec2.SubnetConfiguration(name="private", subnet_type=private, cidr_mask=20)]
        if nat:
            subnets.append(
                ec2.SubnetConfiguration(
                    name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=28, map_public_ip_on_launch=False
                )
            )
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            vpc_name=config.prefix,
            max_azs=2,
            nat_gateways=config.nat_gateways if nat else 0,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
        )
        flow_role = iam.Role(
            self, "FlowLogRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"), description="Flow logs"
        )
        self.vpc.add_flow_log(
            "FlowLog",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(
                log_group(self, "FlowLogs", config=config, key=key, name="network"), flow_role
            ),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        self.workers = ec2.SecurityGroup(
            self, "Workers", vpc=self.vpc, description="Workers: HTTPS out, nothing in", allow_all_outbound=False
        )
        self.workers.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "AWS and notification targets")
        if not nat:
            self._endpoints()

    def _endpoints(self) -> None:
        inside = ec2.SecurityGroup(
            self, "Endpoints", vpc=self.vpc, description="Endpoints: HTTPS from workers", allow_all_outbound=False
        )
        inside.add_ingress_rule(self.workers, ec2.Port.tcp(443), "workers")
        for name, service in _INTERFACES.items():
            self.vpc.add_interface_endpoint(name, service=service, security_groups=[inside], open=False)
