"""Sending a webhook: the POST request, its signature, and the meaning of the response.

Open `client.py` for the request; `signature.py` for the signature (Standard Webhooks); `answers.py` for what a
status means. The room `postprocess/` decides which deliveries are due, and when.
"""

from cef_trio.webhook.answers import Answered, judge_status
from cef_trio.webhook.client import Delivery, WebhookClient, WebhookResponse

__all__ = ["Answered", "Delivery", "WebhookClient", "WebhookResponse", "judge_status"]
