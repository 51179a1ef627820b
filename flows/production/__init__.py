"""What a production is made of, apart from the engine that runs it: no Prefect here."""
