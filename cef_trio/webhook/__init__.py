"""Sending a webhook: the POST request, its signature, and the meaning of the response.

Open `client.py` for the request, its headers and time stamp; `signature.py` for the signature (Standard Webhooks);
`outcome.py` for what a status means. The room `postprocess/` decides which deliveries are due, and when.
"""

from cef_trio.webhook.client import Delivery, WebhookClient, WebhookResponse
from cef_trio.webhook.outcome import DeliveryOutcome, outcome_of_status

__all__ = ["Delivery", "DeliveryOutcome", "WebhookClient", "WebhookResponse", "outcome_of_status"]
