"""shopstream: live shopper journeys, alarms on attacks and trusted reports from one event stream."""
