"""The same with the vendor's SDK for Python (lark-oapi), v1, saving the file."""

import configparser
import os
import sys

file, ca = sys.argv[1:3]
os.environ["REQUESTS_CA_BUNDLE"] = ca

import lark_oapi as lark
from lark_oapi.api.authen.v1 import (
    CreateRefreshAccessTokenRequest,
    CreateRefreshAccessTokenRequestBody,
)

config = configparser.ConfigParser()
config.read(file)
app, token = config["ID"], config["p0"]
client = (
    lark.Client.builder()
    .app_id(app["app_id"])
    .app_secret(app["app_secret"])
    .domain(app["base_url"])
    .build()
)
body = (
    CreateRefreshAccessTokenRequestBody.builder()
    .grant_type("refresh_token")
    .refresh_token(token["refresh_token"])
    .build()
)
request = CreateRefreshAccessTokenRequest.builder().request_body(body).build()
reply = client.authen.v1.refresh_access_token.create(request)
assert reply.success(), reply.msg
token["user_access_token"] = reply.data.access_token
token["refresh_token"] = reply.data.refresh_token
with open(file, "w") as out:
    config.write(out)
print(reply.data.access_token)
