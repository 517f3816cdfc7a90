"""Workers cannot be reached, and go out the way the stage says."""


def test_workers_run_in_two_zones_without_public_addresses(stage):
    subnets = stage.properties("AWS::EC2::Subnet")
    assert len(subnets) == 4
    assert not any(subnet.get("MapPublicIpOnLaunch") for subnet in subnets)


def test_nothing_comes_in_and_only_https_goes_out(stage):
    group = stage.one("AWS::EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in group
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in group["SecurityGroupEgress"]] == [
        (443, 443, "tcp")
    ]
    assert stage.resources("AWS::EC2::SecurityGroupIngress") == {}


def test_the_stage_sets_the_number_of_nat_gateways(stage):
    assert len(stage.resources("AWS::EC2::NatGateway")) == stage.config.nat_gateways


def test_s3_and_dynamodb_are_reached_without_the_internet(stage):
    endpoints = stage.properties("AWS::EC2::VPCEndpoint")
    names = {str(endpoint["ServiceName"]["Fn::Join"][1][-1]) for endpoint in endpoints}
    assert names == {".s3", ".dynamodb"}
    assert {endpoint["VpcEndpointType"] for endpoint in endpoints} == {"Gateway"}


def test_refused_connections_are_logged(stage):
    assert stage.one("AWS::EC2::FlowLog")["TrafficType"] == "REJECT"


def test_with_endpoints_there_is_no_way_to_the_internet(variant):
    assert variant.resources("AWS::EC2::NatGateway") == {}
    assert variant.resources("AWS::EC2::InternetGateway") == {}
    services = str([e["ServiceName"] for e in variant.properties("AWS::EC2::VPCEndpoint")])
    for service in ("kinesis-streams", "glue", "athena", "monitoring", "logs", "ecr.dkr", "kms", "sns", "ssmmessages"):
        assert f".{service}'" in services, service


def test_endpoints_take_connections_of_workers_only(variant):
    (rule,) = variant.properties("AWS::EC2::SecurityGroupIngress")
    assert "SourceSecurityGroupId" in rule
    assert (rule["FromPort"], rule["ToPort"]) == (443, 443)
