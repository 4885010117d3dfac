"""The job of this program as a Python program does it: requests and configparser, saving the file."""

import configparser
import sys

import requests

file, ca = sys.argv[1:3]
config = configparser.ConfigParser()
config.read(file)
app, token = config["ID"], config["p0"]
reply = requests.post(
    app["base_url"] + "/open-apis/authen/v2/oauth/token",
    json={
        "grant_type": "refresh_token",
        "client_id": app["app_id"],
        "client_secret": app["app_secret"],
        "refresh_token": token["refresh_token"],
    },
    verify=ca,
    timeout=30,
).json()
assert reply["code"] == 0, reply
token["user_access_token"] = reply["access_token"]
token["refresh_token"] = reply["refresh_token"]
with open(file, "w") as out:
    config.write(out)
print(reply["access_token"])
