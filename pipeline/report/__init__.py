"""Stage `report`: one HTML file that shows it all."""
