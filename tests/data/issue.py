"""Makes a licence with PyJWT: the argument is JSON with claims, headers, and a key file or another algorithm."""
import json
import sys

import jwt

wanted = json.loads(sys.argv[1])
algorithm = wanted.get("alg", "EdDSA")
if "key" in wanted:
    with open(wanted["key"], "rb") as file:
        key = file.read()
elif algorithm == "none":
    key = None
else:
    # PyJWT refuses PEM as a secret, and takes the same key in base64.
    key = wanted["secret"]
print(jwt.encode(wanted["claims"], key, algorithm=algorithm, headers=wanted["headers"]))
