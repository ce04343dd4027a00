"""One POST to a webhook's receiver: its signature, its TLS, and what the response means.

Open `client.py` for the request; `signature.py` for the signature (Standard Webhooks); `answers.py` for what a status
means. Which deliveries are due, and when, is in the room `postprocess/`.
"""

from cef_trio.webhook.answers import Answered, judge_status
from cef_trio.webhook.client import Delivery, WebhookClient, WebhookResponse

__all__ = ["Answered", "Delivery", "WebhookClient", "WebhookResponse", "judge_status"]
