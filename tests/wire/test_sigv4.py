"""Signatures: the values that AWS publishes, and for everything else what AWS's own signer says."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.bedrock.sigv4 import SigningKey, SigningScope, sign
from chattable.adapters.bedrock.wire import BedrockWire

# The example account of AWS's documents and of its published test suite.
KEY = SigningKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
SUITE, IAM = SigningScope("us-east-1", "service"), SigningScope("us-east-1", "iam")
HOST = ("host", "example.amazonaws.com")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
PUBLISHED = [
    (SUITE, "GET", "/", [HOST], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (SUITE, "POST", "/", [HOST], b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (SUITE, "GET", "/?Param2=value2&Param1=value1", [HOST], b"",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    (SUITE, "POST", "/", [FORM, HOST], b"Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
    (IAM, "GET", "/?Action=ListUsers&Version=2010-05-08",
     [("Host", "iam.amazonaws.com"), ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")], b"",
     "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
]  # fmt: skip


@pytest.mark.parametrize("scope, method, target, headers, body, signature", PUBLISHED)
def test_the_published_signatures(scope, method, target, headers, body, signature):
    own = dict(sign(KEY, scope, NOW, method, target, headers, body))
    names = ";".join(sorted(name.lower() for name, _ in [*headers, ("x-amz-date", "")]))
    assert own == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 "
        f"Credential=AKIDEXAMPLE/20150830/us-east-1/{scope.service}/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }


class At(SigV4Auth):
    """AWS's signer at a moment of ours."""

    def add_auth(self, request: AWSRequest) -> None:
        request.context["timestamp"] = NOW.strftime("%Y%m%dT%H%M%SZ")
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        self._inject_signature_to_request(
            request, self.signature(self.string_to_sign(request, canonical), request)
        )


# "." and ".." are steps of a path, which AWS's own signer takes out, and no model's name.
MODEL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..")
)


@given(
    MODEL, st.binary(max_size=50), st.sampled_from(["", "FwoGZXIvYXdzEJr//token=="]), st.booleans()
)
def test_awss_own_signer_agrees(model, body, token, stream):
    host, path = "bedrock-runtime.eu-central-1.amazonaws.com", BedrockWire().path(model, stream)
    key = f"{KEY.id}:{KEY.secret}" + (f":{token}" if token else "")
    ours = dict(BedrockWire(now=lambda: NOW).signature(key, host, path, body))
    request = AWSRequest(
        "POST", f"https://{host}{path}", {"Content-Type": "application/json"}, body
    )
    At(Credentials(KEY.id, KEY.secret, token or None), "bedrock", "eu-central-1").add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert (
        ours["authorization"] == theirs["authorization"]
        and ours["x-amz-date"] == theirs["x-amz-date"]
    )
    assert ours.get("x-amz-security-token") == theirs.get("x-amz-security-token")


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii"), min_size=1, max_size=5),
        st.text(max_size=5),
        max_size=4,
    )
)
def test_it_agrees_about_queries(query):
    target = "/x?" + "&".join(
        f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query.items()
    )
    ours = dict(sign(KEY, SUITE, NOW, "GET", target, [HOST], b""))
    request = AWSRequest("GET", f"https://example.amazonaws.com{target}")
    At(Credentials(KEY.id, KEY.secret), "service", "us-east-1").add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize(
    "region, host, meant",
    [
        ("", "bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        ("", "bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("", "vpce-0a1.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("", "127.0.0.1:8080", "us-east-1"),
        ("sa-east-1", "bedrock-runtime.eu-central-1.amazonaws.com", "sa-east-1"),
    ],
)
def test_the_region_is_the_settings_or_the_addresss(region, host, meant):
    headers = dict(
        BedrockWire().with_options({"region": region}).signature("AKID:secret", host, "/", b"")
    )
    assert f"/{meant}/bedrock/aws4_request" in headers["authorization"]


def test_which_keys_sign():
    wire = BedrockWire()
    assert wire.headers("ABSKQmVkcm9jaw==") == [("authorization", "Bearer ABSKQmVkcm9jaw==")]
    assert (
        wire.signature("ABSKQmVkcm9jaw==", "h", "/", b"") == [] == wire.signature("", "h", "/", b"")
    )
    assert wire.headers("AKID:secret") == [] == wire.headers("")
    assert "x-amz-security-token" not in dict(wire.signature("AKID:secret:", "h", "/", b"")), (
        "an empty one is none"
    )
    assert dict(wire.signature("AKID:secret:a:b", "h", "/", b""))["x-amz-security-token"] == "a:b"
