"""What is put beside or into the weights: ControlNets, LoRAs, IP-Adapters."""
